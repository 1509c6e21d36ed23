"""A DICOM node: receives PET/CT studies, has each segmented by a process of its own, sends the results on. Research use only.

node.py joins the parts: listener.py and intake.py (network -> spool), spool.py (the states on disk), worker.py and guarded.py (the
segmentation's process), sender.py (spool -> destination). Everything that must survive a crash is on disk before it is said.
"""
