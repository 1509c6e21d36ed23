"""What a spool holds, for `l2s serve --status`: read without the lock, beside a running node."""

from __future__ import annotations

from pathlib import Path

from l2s.errors import InputError
from l2s.serve import spool
from l2s.serve.intake import FILE_NAME


def read(root: Path) -> dict:
    """{'incoming': [...], 'queued': [...], ...}: one JSON-able entry a study or job, oldest first.

    'incoming' has the studies of which something is in no job yet.

    Raises:
        InputError: root is no spool.
    """
    if not all((root / name).is_dir() for name in spool.FOLDERS):
        raise InputError(f"{root} is no spool; name the folder that `l2s serve --spool` was given")
    found: dict[str, list[dict]] = {"incoming": incoming(root)}
    for state in spool.STATES:
        found[state] = [entry(root, state, job) for job in spool.jobs(root, state)]
    return found


def incoming(root: Path) -> list[dict]:
    studies = []
    for place in sorted((root / "incoming").iterdir()):
        names = [match for file in place.iterdir() if (match := FILE_NAME.fullmatch(file.name))]
        job = spool.newest(root, place.name)
        covered = set(job.instances.items()) if job else set()
        fresh = sum((match["sop"], match["digest"]) not in covered for match in names)
        if fresh:
            studies.append({"study": place.name, "instances": len(names), "new": fresh})
    return studies


def entry(root: Path, state: str, job: spool.Job) -> dict:
    facts = {"study": job.study, "generation": job.generation, "instances": len(job.instances), "queued_at": job.queued_at}
    place = spool.folder(root, state, job)
    if state in ("sending", "done") and (place / "results.json").exists():
        total = len(spool.results(place))
        facts |= {"results": total, "sent": total - len(spool.unsent(place)), "sent_to": job.sent_to}
        facts["send_failures"] = job.send_failures
    if job.reason:
        facts["reason"] = job.reason
    return facts


def as_text(found: dict) -> str:
    """One line an entry, under the count of each state."""
    lines = []
    for state, entries in found.items():
        lines.append(f"{state}: {len(entries)}")
        for e in entries:
            words = [f"{e['instances']} instances"]
            if "generation" in e:
                words.insert(0, f"generation {e['generation']}")
            if "new" in e:
                words.append(f"{e['new']} new")
            if "results" in e:
                words.append(f"{e['sent']} of {e['results']} results sent")
            if "reason" in e:
                words.append(e["reason"])
            lines.append(f"  {e['study']}  {', '.join(words)}")
    return "\n".join(lines)
