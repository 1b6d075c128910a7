"""The benchmarks: each is documented, and a tiny form of them runs and leaves a whole record. No speed is asserted."""

import dataclasses
import json
import math
import shutil
import time
from datetime import date
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.__main__ import BENCHMARKS, FULL, ON_REQUEST, main
from benchmarks.figures import Figure
from benchmarks.pictures import write_pictures
from benchmarks.quality import (
    ABLATIONS,
    MARKS,
    WAYS,
    Arm,
    Step,
    Task,
    figures,
    in_turn,
    measure,
    quality_table,
    read_arm,
    rounds_in,
    score,
    seconds_to,
)
from benchmarks.quality_plot import curves
from benchmarks.record import BEGIN, END, README, table, write_result, write_table
from benchmarks.resampled import resampled, write_resampled
from benchmarks.unseen import SWEEP, difference, hold_back
from benchmarks.unseen import WAYS as JUDGES
from benchmarks.wrong_labels import HEADER, Part, measured, rows
from rfray.spec.sweep_file import load_sweep
from rfray.stats.predictions import Predictions, write_predictions


def test_every_benchmark_is_documented() -> None:
    text = README.read_text()
    assert text.count(BEGIN) == text.count(END) == 1
    prose = text.split(END)[1]
    assert [name for name in BENCHMARKS if f"**`{name}`**" not in prose] == []
    assert set(FULL) <= set(BENCHMARKS)
    assert set(BENCHMARKS) >= ON_REQUEST
    assert [text.count(mark) for mark in MARKS] == [1, 1]


def test_list_names_each(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--list"])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(BENCHMARKS)


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["cash"])
    assert "no benchmark cash" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("cache", {"rounds": 1, "images": 8, "large_images": 2}),
        pytest.param("throughput", {"rounds": 1, "images": 80}, marks=pytest.mark.slow),
        ("predicting", {"rounds": 1, "images": 6}),
        ("leaderboard", {"rounds": 1, "trials": 2, "images": 20}),
        pytest.param("votes", {"rounds": 1, "trials": 2, "images": 20}, marks=pytest.mark.slow),
        ("intervals", {"rounds": 1, "rows": 2, "images": 20}),
        pytest.param(
            "serving",
            {"rounds": 1, "clients": 4, "seconds": 1},
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif(not shutil.which("wrk"), reason="no wrk here: apt install wrk"),
            ],
        ),
        pytest.param(
            "scale",
            {"rounds": 1, "trials": 3, "epochs": 2, "slots": 2, "sleep_ms": 50, "images": 20},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "quality",
            {"minutes": 0, "seconds": 90, "seeds": 1, "ways": 2},
            marks=[pytest.mark.slow, pytest.mark.timeout(1200)],
        ),
    ],
)
def test_a_tiny_form_leaves_a_record(name: str, sizes: dict[str, int], tmp_path: Path) -> None:
    readme = README.read_text()
    options = [word for size, number in sizes.items() for word in ("--set", f"{size}={number}")]
    main([name, "--results", str(tmp_path), *options])
    record = json.loads((tmp_path / f"{name}.json").read_text())
    assert record["benchmark"] == name
    assert record["sizes"] == sizes
    assert {"date", "hardware", "versions"} <= set(record)
    for figure in record["figures"]:
        assert figure["n"] == len(figure["rfray_seconds"]) == len(figure["reference_seconds"]) == 1
        assert figure["ratio"] == figure["reference_seconds"][0] / figure["rfray_seconds"][0]
    assert README.read_text() == readme


def test_flipped_labels_are_counted_and_what_it_gains_to_leave_them_out() -> None:
    draw, parts = np.random.default_rng(0), {}
    for part, count in (("train", 120), ("val", 40), ("test", 60)):
        labels = np.arange(count) % 2
        features = draw.normal(labels[:, None] * 3.0, 1, (count, 4)).astype(np.float32)
        parts[part] = Part(features, labels, np.arange(count))
    found = measured(parts, 0.1, 0)  # 16 of 160
    assert found["found"] >= 14 / 16
    assert found["listed"] < 0.2
    assert found["precision"] * found["listed"] * 160 == pytest.approx(found["found"] * 16)
    assert found["without found"] > 0.95
    (row,) = rows("data", pd.DataFrame([{"share": 0.1, "clean": 1.0, **found}]))
    assert row.count("|") == HEADER.splitlines()[1].count("|")


def test_the_ratio_is_the_median_of_the_rounds() -> None:
    figure = Figure("a", "b", [1.0, 2.0, 10.0], [3.0, 4.0, 10.0], least_ratio=2.0)  # 3, 2 and 1 times as fast
    assert figure.ratio == 2
    assert figure.met
    assert Figure("a", "b", [11.0], [1.0], most_seconds=10).met is False
    assert Figure("a", "b", [1.0], [1.0]).met is None


def test_the_table_replaces_the_one_between_the_marks(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"above\n{BEGIN}\nold\n{END}\nbelow\n")
    for text in ("first", "second"):
        write_table(readme, text)
    assert readme.read_text() == f"above\n{BEGIN}\n\nsecond\n\n{END}\nbelow\n"


IDS = np.array(["fake/a.jpg", "fake/b.jpg", "real/a.jpg", "real/b.jpg"])
PERFECT, THREE_QUARTERS, HALF, WRONG = (0.9, 0.8, 0.2, 0.1), (0.9, 0.3, 0.4, 0.1), (0.9, 0.1, 0.5, 0.4), (0, 0, 1, 1)
"""p_fake of two fakes and two real images: all 4 pairs in the right order, 3 of them, 2, none."""


def said(p_fake: tuple[float, ...]) -> Predictions:
    return Predictions(IDS, np.array([1, 1, 0, 0], np.int8), np.array(p_fake, float))


def arm(vote: tuple[float, ...], *steps: tuple[float, tuple[float, ...]]) -> Arm:
    return Arm(60.0, 5, [Step(at, 0.5, said(p_fake)) for at, p_fake in steps], said(vote))


def one_round() -> dict[str, Arm]:
    return {
        "rfray": arm(PERFECT, (5, HALF), (10, THREE_QUARTERS)),
        "ray-tune": arm(THREE_QUARTERS, (20, WRONG), (30, HALF)),
        "optuna": arm(HALF, (30, PERFECT)),
        "random": arm(WRONG, (40, THREE_QUARTERS)),
    }


def test_all_ways_are_judged_alike_by_what_they_predicted() -> None:
    found = score(one_round())
    assert [found[way]["best"]["auc"] for way in WAYS] == [0.75, 0.5, 1.0, 0.75]
    assert [found[way]["vote"]["auc"] for way in WAYS] == [1.0, 0.75, 0.5, 0.0]
    assert [found[way]["vote"]["minus"] for way in WAYS] == [0.0, -0.25, -0.5, -1.0]  # rfray's vote
    assert found["rfray"]["best"]["minus"] == -0.25
    for way in WAYS:
        for which in ("best", "vote"):
            one = found[way][which]
            assert one["low"] <= one["auc"] <= one["high"]
            assert one["minus_low"] <= one["minus"] <= one["minus_high"]
    assert found["ray-tune"]["curve"] == [(20, 0.0), (30, 0.5)]
    assert found["rfray"]["seconds_to"] == {"rfray": 10, "ray-tune": 5, "optuna": None, "random": 10}
    assert found["optuna"]["seconds_to"]["rfray"] == 30


def test_the_order_of_the_images_does_not_matter_but_their_names_do() -> None:
    arms = one_round()
    turned = said(THREE_QUARTERS)
    arms["random"] = Arm(60.0, 5, arms["random"].steps, Predictions(*(a[::-1] for a in vars(turned).values())))
    assert score(arms)["random"]["vote"]["auc"] == 0.75
    others = Predictions(np.array(["fake/c.jpg", *IDS[1:]]), turned.labels, turned.p_fake)
    arms["random"] = Arm(60.0, 5, arms["random"].steps, others)
    with pytest.raises(ValueError, match="not the same"):
        score(arms)


def test_an_auc_is_reached_where_the_curve_stays_there() -> None:
    curve = [(10, 0.7), (20, 0.6), (30, 0.8), (40, 0.7)]
    assert seconds_to(curve, 0.5) == 10
    assert seconds_to(curve, 0.65) == 30  # it was there after 10, and fell again
    assert seconds_to(curve, 0.7) == 30
    assert seconds_to(curve, 0.75) is None


def test_the_figures_and_both_tables_of_quality(tmp_path: Path) -> None:
    task = Task("faces", "/here/train", "/here/test", {"lcnet_050": "/here/w.safetensors"}, 96, (1e-3, 1e-2), 2, 0.2)
    own, *others = figures(task, 60, [score(one_round())] * 2)
    assert own.ratio == 1
    assert [figure.rfray_seconds[0] for figure in others] == [5, math.inf, 10]  # ray-tune, optuna, random
    assert [figure.ratio for figure in others] == [12, 0, 6]
    assert [figure.met for figure in others] == [True, False, True]
    path = write_result(tmp_path, "quality-faces", {"seeds": 2}, [own, *others])
    assert "/here" not in path.read_text()  # no machine's paths
    assert "| never |" in table(tmp_path, ["quality"])
    rows = quality_table(tmp_path).splitlines()[2:]
    assert [row.split(" | ")[1] for row in rows] == list(WAYS.values())
    assert rows[0].split(" | ")[0] == "| faces, 1 min"
    assert rows[0].endswith("| 2 of 2 |")  # 1.0 against 0.75
    assert rows[2].endswith("| 0 of 2 |")  # 0.5 against 1.0
    assert len(curves(json.loads(path.read_text())).axes[0].get_lines()) == 2 * 2 * len(WAYS) + len(WAYS) + 1


def test_an_ablation_has_a_table_of_its_own(tmp_path: Path) -> None:
    task = Task("faces", "train", "test", {"lcnet_050": None}, 96, (1e-3, 1e-2), 2, 0.2)
    arms = {"rfray": one_round()["rfray"], "no-asha": one_round()["optuna"]}
    made = figures(task, 60, [score(arms)])
    assert [figure.met for figure in made] == [None, None]  # what is switched off has no goal
    write_result(tmp_path, "ablation-faces", {"seeds": 1}, made)
    assert "faces" not in quality_table(tmp_path)
    without = quality_table(tmp_path, "ablation").splitlines()[3]
    assert "| rfray without stopping early | 5 |" in without
    assert "-0.500" in without  # a vote of 0.5 against 1.0


def test_what_is_switched_off_is_a_setting_of_the_sweep(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text("name: faces\ndata: {train: t, test: v}\ntrial: {backbone: lcnet_050}\nsearch: {budget: 12m}\n")
    for name, ablation in ABLATIONS.items():
        for change in ablation.changes:
            assert load_sweep(file, (change,)).sweep != load_sweep(file).sweep, f"{name}: {change} is what it is anyway"


def test_rounds_of_earlier_days_are_kept(tmp_path: Path) -> None:
    task = Task("faces", "/here/train", "/here/test", {"lcnet_050": "/here/w.safetensors"}, 96, (1e-3, 1e-2), 2, 0.2)
    assert rounds_in(tmp_path / "quality-faces.json", task, 60) == []
    made = figures(task, 60, [score(one_round())] * 2)
    path = write_result(tmp_path, "quality-faces", {"seeds": 2}, made)
    elsewhere = dataclasses.replace(task, train="/there/train", test="/there/test")
    rounds = rounds_in(path, elsewhere, 60)
    assert [set(one) for one in rounds] == [set(WAYS)] * 2
    more = figures(task, 60, [*rounds, score(one_round())])
    assert [len(figure.details) for figure in more] == [3] * 4
    assert [figure.ratio for figure in more] == [figure.ratio for figure in made]
    with pytest.raises(ValueError, match="another measurement"):
        rounds_in(path, task, 61)


def test_what_was_measured_before_a_stop_is_not_measured_again(tmp_path: Path) -> None:
    assert [in_turn(seed)[0] for seed in range(5)] == [*WAYS, "rfray"]
    assert all(set(in_turn(seed)) == set(WAYS) for seed in range(4))
    task = Task("faces", "train", "test", {"lcnet_050": None}, 96, (1e-3, 1e-2), 2, 0.2)
    for name, one in one_round().items():
        out = tmp_path / f"0-{name}"
        out.mkdir()
        (out / "task.json").write_text(json.dumps({"start": 100}))
        steps = [{"ended": 100 + step.seconds, "val_auc": step.val_auc} for step in one.steps]
        (out / "arm.json").write_text(json.dumps({"ended": 160, "trials": 5, "steps": steps}))
        for number, step in enumerate(one.steps):
            write_predictions(out / f"step-{number}.parquet", step.report, {})
        write_predictions(out / "vote.parquet", one.vote, {})
    today = {name: {**found, "seed": 0, "date": f"{date.today()}"} for name, found in score(one_round()).items()}
    assert measure(tmp_path, task, 60, [0]) == figures(task, 60, [today])
    with pytest.raises(ValueError, match="another measurement"):
        measure(tmp_path, task, 90, [0])


def test_a_peer_hands_over_the_best_so_far_and_the_mean_of_its_best_trials(tmp_path: Path) -> None:
    import torch

    from benchmarks.quality_peers import hand_over, make_model, training

    images = write_pictures(tmp_path / "images", 16, side=32)
    task = Task("tiny", str(images), str(images), {"test_resnet": None}, 32, (1e-3, 1e-2), 1, 0.5, batch_size=4)
    given = {**vars(task), "seed": 0, "start": 100.0, "out": str(tmp_path)}
    (tmp_path / "task.json").write_text(json.dumps(given))
    assert [0 <= auc <= 1 for _, auc in training(given, "test_resnet", 1e-3)] == [True]
    assert list(training(given, "test_resnet", 1e-3, until=time.time() - 1)) == []
    judged = []
    # 4 trials: the first gets better, the second is worse than that, the third best, the last joins the vote
    for number, (trial, auc, ended) in enumerate(
        [(0, 0.5, 110), (0, 0.7, 120), (1, 0.1, 125), (2, 0.9, 130), (3, 0.6, 140)]
    ):
        torch.manual_seed(number)
        file = tmp_path / f"{number}.pt"
        torch.save(make_model(given, "test_resnet", pretrained=True).state_dict(), file)
        judged.append({"trial": trial, "backbone": "test_resnet", "auc": auc, "ended": ended, "weights": str(file)})
    hand_over(given, judged[::-1], 150.0)
    found = read_arm(tmp_path)
    assert (found.seconds, found.trials) == (50, 4)
    assert [(step.seconds, step.val_auc) for step in found.steps] == [(10, 0.5), (20, 0.7), (30, 0.9)]
    assert sorted(found.vote.ids) == sorted(file.relative_to(images).as_posix() for file in images.rglob("*.jpg"))
    assert all(label == name.startswith("fake") for name, label in zip(found.vote.ids, found.vote.labels, strict=True))
    best, second = found.steps[2].report.p_fake, found.steps[1].report.p_fake  # trials 2 and 0; the third is trial 3
    third = 3 * found.vote.p_fake - best - second
    assert ((third >= -1e-9) & (third <= 1 + 1e-9)).all()
    assert not np.allclose(third, best)


def test_no_photograph_is_both_real_and_fake(tmp_path: Path) -> None:
    photographs = write_pictures(tmp_path / "photographs", 10, side=64)
    made = [write_resampled(photographs, tmp_path / name) for name in ("first", "second")]
    first, second = ({file.relative_to(one): file.read_bytes() for file in one.rglob("*.jpg")} for one in made)
    assert first == second
    names = {name: {file.stem for file in (made[0] / name).iterdir()} for name in ("real", "fake")}
    assert len(names["real"]) == len(names["fake"]) == 5
    assert not names["real"] & names["fake"]


def test_a_fake_is_resampled_in_the_middle_alone() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (60, 40, 3), np.uint8)
    fake = resampled(picture, np.random.default_rng(1)).astype(int)
    assert (fake[:4, :4] == picture[:4, :4]).all()
    assert fake[20:40, 15:25].std() < 0.8 * picture[20:40, 15:25].std()  # noise does not survive a smaller size


def test_a_source_of_each_class_is_held_back_and_another_folder_is_one_more(tmp_path: Path) -> None:
    for part, label, source in product(("train", "test"), ("real", "fake"), "abc"):
        write_pictures_of(tmp_path / "data" / part / label / source, 2)
    for label in ("real", "fake"):
        write_pictures_of(tmp_path / "faces/train" / label, 3)
    held = hold_back(tmp_path / "data", [tmp_path / "faces"], seed=4, out=tmp_path / "out")
    assert held == {"real": "b", "fake": "b"}
    there = {str(one.relative_to(tmp_path / "out")): len([*one.iterdir()]) for one in (tmp_path / "out").glob("*/*/*")}
    assert there == {
        **{f"train/{label}/{source}": 2 for label in ("real", "fake") for source in "ac"},
        **{f"train/{label}/faces": 3 for label in ("real", "fake")},
        **{f"unseen/{label}/b": 2 for label in ("real", "fake")},
        **{f"seen/{label}/{source}": 2 for label in ("real", "fake") for source in "ac"},
    }


def write_pictures_of(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"{number}.jpg").write_bytes(b"")


def test_both_judges_have_the_same_sweep(tmp_path: Path) -> None:
    for judge in JUDGES:
        given = {"seed": 1, "folder": tmp_path, "weights": tmp_path / "w.safetensors", "side": 64, "seconds": 90}
        (tmp_path / "sweep.yaml").write_text(SWEEP.format(**given, judge=judge))
        sweep = load_sweep(tmp_path / "sweep.yaml").sweep
        assert (sweep.search.judge, sweep.search.budget, sweep.data.test_sets["unseen"]) == (judge, "90s", "test")


def test_the_difference_is_paired_by_seed() -> None:
    pairs = [{"val": {"unseen": value}, "unseen": {"unseen": value + gain}} for value, gain in ((0.5, 0.1), (0.9, 0.3))]
    mean, low, high = difference(pairs, "unseen")
    # standard error 0.1; Student's t with one degree of freedom: 12.706
    assert (mean, low, high) == pytest.approx((0.2, 0.2 - 1.2706, 0.2 + 1.2706), abs=1e-4)
