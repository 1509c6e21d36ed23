from training.run import PHANTOMS_LOOKED_AT, held_out_rows, looked_at_rows


def row(source, fold, name):
    return {"source": source, "fold": fold, "name": name}


ROWS = [row("sts", k % 3, f"sts_{k}") for k in range(6)] + [row("phantom", k % 3, f"phantom_{k}") for k in range(12)]
ROWS += [row("implant", k % 3, f"implant_{k}") for k in range(6)]


def test_a_fold_looks_at_its_patients_and_a_few_of_the_phantoms_that_it_holds_back():
    names = [r["name"] for r in looked_at_rows(ROWS, 1)]
    assert names == ["sts_1", "sts_4", "phantom_1", "phantom_4"]
    assert PHANTOMS_LOOKED_AT == 2
    training = [r["name"] for r in held_out_rows(ROWS, 1)[0]]
    assert not set(names) & set(training)


def test_without_a_fold_there_is_nothing_to_look_at():
    assert looked_at_rows(ROWS, None) == []
