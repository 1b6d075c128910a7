"""The face parts that were replaced in each of CIPLab's fakes, as a table for `data.attributes`.

Question   Which replaced parts of a face are found, and which are missed?

CIPLab's fakes are photographs in which an expert has replaced parts of the face; the four digits at the end of a file's
name say which: left eye, right eye, nose, mouth (mid_12_1100.jpg: both eyes). The words easy, mid and hard before them
are the impression of whoever sorted the files, and no categories, says the page of the data set.

Command    python experiments/ciplab_parts.py ../shared/data/ciplab160/valid > ciplab-parts.csv
           rfray ensemble --set data.attributes=ciplab-parts.csv     (of a run of experiments/ciplab.yaml)
Cost       seconds
Result     groups.csv and the page have the fakes with each part replaced, and by how many were; real ones have no value
"""

import csv
import re
import sys
from pathlib import Path

PARTS = ("left_eye", "right_eye", "nose", "mouth")


def rows(folder: Path) -> list[list[str]]:
    """One row a fake of the data folder: its path below it, yes or no for each part, and how many parts."""
    found = []
    for file in sorted((folder / "fake").iterdir()):
        if digits := re.search(r"_([01]{4})\.", file.name):
            replaced = ["yes" if digit == "1" else "no" for digit in digits[1]]
            found.append([f"fake/{file.name}", *replaced, str(replaced.count("yes"))])
    return found


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1], "fake").is_dir():
        sys.exit("give the data folder that has CIPLab's fakes in fake/: python experiments/ciplab_parts.py data/valid")
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerows([["path", *PARTS, "replaced"], *rows(Path(sys.argv[1]))])
