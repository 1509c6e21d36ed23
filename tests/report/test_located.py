import numpy as np
import pytest

from l2s.errors import InputError
from l2s.measure.metrics import overlap
from l2s.report.lesions import compare, locate, places
from l2s.study import Grid


def drawn(*boxes, shape=(8, 9, 10)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    for z, y, x in boxes:
        mask[z, y, x] = True
    return mask


A, B, C = (1, 1, slice(0, 2)), (4, 4, slice(0, 5)), (6, 7, slice(3, 6))  # of 2, 5 and 3 voxels


def test_lesions_are_numbered_as_the_table_is():
    found = locate(drawn(A, B, C), [5, 3, 2])
    assert found.count == 3
    assert np.bincount(found.owner).tolist() == [5, 3, 2]
    assert found.indices_zyx()[found.owner == 2].tolist() == [[1, 1, 0], [1, 1, 1]]


def test_small_components_are_in_no_row_and_connectivity_counts():
    assert locate(drawn(A, B, C), [5, 3], min_voxels=3).count == 2
    corner = drawn((1, 1, 1), (2, 2, 2))
    assert locate(corner, [1, 1], 18).count == 2
    assert locate(corner, [2], 26).count == 1


@pytest.mark.parametrize("sizes", [[5, 3], [5, 2, 3], [5, 3, 2, 1], []])
def test_a_table_of_another_mask_is_refused(sizes):
    with pytest.raises(InputError, match=r"the mask 3 of 10: they do not belong together; run `l2s measure`"):
        locate(drawn(A, B, C), sizes)


def test_one_shared_voxel_makes_a_hit():
    mask = drawn(A, B, C)
    truth = drawn((4, slice(4, 6), 4), (0, 8, 9))  # one voxel in B and its neighbour; one far off
    found = compare(locate(mask, [5, 3, 2]), mask, truth)
    assert found.verdicts == ("hit", "false", "false")
    assert (found.true_lesions, found.found, found.missed.count) == (2, 1, 1)
    assert found.missed.indices_zyx().tolist() == [[0, 8, 9]]
    assert found.touched.indices_zyx().tolist() == [[4, 4, 4], [4, 5, 4]]
    assert (found.touched.count, found.touched.owner.tolist()) == (1, [0, 0])


def test_a_neighbour_is_no_hit():
    mask = drawn(B)
    found = compare(locate(mask, [5]), mask, drawn((4, 5, slice(0, 5))))
    assert found.verdicts == ("false",)
    assert found.missed.count == 1


@pytest.mark.parametrize("empty", ["mask", "truth", "both"])
def test_empty_masks(empty):
    mask = drawn() if empty != "truth" else drawn(A)
    truth = drawn() if empty != "mask" else drawn(B)
    found = compare(locate(mask, [2] if mask.any() else []), mask, truth)
    assert len(found.verdicts) == (1 if empty == "truth" else 0)
    assert found.missed.count == (1 if empty == "mask" else 0)


def test_counts_are_those_of_the_metrics():
    rng = np.random.default_rng(3)
    for _ in range(20):
        mask, truth = (rng.random((8, 9, 10)) < 0.04 for _ in range(2))
        o = overlap(truth, mask)
        found = compare(locate(mask, sorted(o.prediction_voxels.tolist(), reverse=True)), mask, truth)
        assert found.verdicts.count("hit") == len(np.unique(o.pairs[:, 1]))
        assert found.found == len(np.unique(o.pairs[:, 0]))
        assert found.missed.count == len(o.truth_voxels) - found.found


def test_places():
    pet = np.zeros((10, 8, 100), np.float32)
    pet[:, 2:6, 20:80] = 1  # the middle is at x 49.5
    mask = drawn((9, 3, 30), (0, 3, 70), (4, 3, 50), shape=pet.shape)
    grid = Grid(pet.shape, (10.0, 5.0, 5.0), (0.0, 0.0, 0.0))
    assert places(locate(mask, [1, 1, 1]), pet, grid) == ["left, 90 mm", "midline, 50 mm", "right, 0 mm"]
    leg = Grid(pet.shape, (10.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    assert places(locate(mask, [1, 1, 1]), pet, leg) == ["90 mm", "50 mm", "0 mm"]
    assert places(locate(drawn(), []), pet, grid) == []
