"""What a network was shown and what it said, as one picture for TensorBoard."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from training.sampling import Batch

MOST_SAMPLES = 8


def show(batch: Batch, logits: Tensor) -> np.ndarray:
    """uint8 (rows, columns): a sample a row; middle channel of the planes, or PET and CT of the patch; then truth, cue if any, probability.

    A patch is shown at the plane with most lesion, or in the middle where it has none.
    """
    columns = [*batch.image.float().cpu().unbind(1), batch.truth.float().cpu()[:, 0]]
    if batch.image.ndim == 4:
        columns = [columns[batch.image.shape[1] // 2], columns[-1]]
    # inputs run from -1 to 1, all others from 0 to 1
    columns[:-1] = [column / 2 + 0.5 for column in columns[:-1]]
    if batch.cue is not None:
        columns.append(batch.cue.float().cpu()[:, 0])
    columns.append(torch.sigmoid(logits.detach().float()).cpu()[:, 0])
    rows = []
    for k in range(min(MOST_SAMPLES, len(columns[0]))):
        planes = [column[k] for column in columns]
        if batch.image.ndim == 5:
            load = batch.truth[k, 0].sum(dim=(1, 2))
            z = int(load.argmax()) if load.max() > 0 else len(load) // 2
            planes = [plane[z] for plane in planes]
        rows.append(torch.cat(planes, dim=1))
    return (torch.cat(rows).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
