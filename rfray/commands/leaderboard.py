"""A run folder -> its leaderboard in the terminal: `rfray leaderboard`."""

from rich.console import Console

from rfray.evaluation.leaderboard import (
    false_positives,
    guessing,
    made_of,
    on_several_sets,
    ranked_by,
    read_leaderboard,
    waiting,
)
from rfray.evaluation.left_out import left_out_line
from rfray.evaluation.significance import verdict
from rfray.progress.phases import say, warn
from rfray.report.terminal import leaderboard_table
from rfray.store.run_dir import RunDir


def show_leaderboard(run: RunDir, sort: str | None, console: Console) -> None:
    """Prints the leaderboard, in its own order or best first by the column `sort`, and what it says in sentences."""
    run.mirror.pull(without=("*.safetensors", "*.pt", "plots/*"))
    frame = read_leaderboard(run)
    run.check(*run.votes_predictions(), *run.test_predictions())
    warn(console, guessing(run, frame))
    for file in made_of(run, frame):
        if not file.exists():
            gone = f"{run.shown(file)} is gone, of which the leaderboard was made"
            say(console, f"{gone}; `rfray ensemble` makes it anew")
    console.print(leaderboard_table(frame, sort, console.width, ranked_by(run.sweep(), frame.columns)))
    sentences = (verdict(run, frame), on_several_sets(run, frame), false_positives(run, frame), waiting(frame))
    for sentence in (*sentences, left_out_line(run)):
        if sentence:
            say(console, sentence)
