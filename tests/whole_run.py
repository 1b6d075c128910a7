"""a run folder -> nothing, or an AssertionError: what must be so in it, however often its sweep was disturbed."""

import numpy as np
from sklearn.metrics import roc_auc_score

from rfray.models.inference import weights_metadata
from rfray.stats.predictions import read_predictions
from rfray.store.run_dir import RunDir


def check_run(run: RunDir, trials: int) -> None:
    """Holds a finished run folder against what must be so, however often it was killed."""
    outs = run.trials()
    assert len(outs) == trials == len({out.id for out in outs})
    assert [out.start().number for out in outs] == list(range(trials))
    results = [out.result() for out in outs]
    assert all(result is not None and result.status == "ok" for result in results), results
    assert sorted(result.position for result in results) == list(range(trials))
    assert len({result.id for result in results}) == trials
    for out, result in zip(outs, results, strict=True):
        history = out.history()
        assert history["epoch"].tolist() == list(range(1, result.epochs + 1)), f"{out.id}: {history['epoch'].tolist()}"
        done = [int(line.split(",")[1]) for line in out.starts_file.read_text().splitlines()]
        assert done == sorted(done), f"{out.id} fell back: {done}"
        predictions = read_predictions(out.predictions_file("val"))
        assert abs(roc_auc_score(predictions.labels, predictions.p_fake) - result.score) < 1e-12, out.id
        scores = history["val_auc"].to_numpy()
        assert (scores.max(), int(np.argmax(scores)) + 1) == (result.score, result.best_epoch), f"{out.id}: {scores}"
        if out.weights_file.exists():
            assert weights_metadata(out.weights_file)["epoch"] == str(result.best_epoch), out.id
        assert out.state_files() == []
    assert sum(out.weights_file.exists() for out in outs) == min(trials, run.sweep().keep)
    assert [str(path) for path in run.path.rglob("*.part*")] == []
    assert not run.ray_folder.exists()
