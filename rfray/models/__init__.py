"""A trial or a bundle goes in; a model, its predictions, its heatmaps or an exported file come out."""

import os

# torch reads this once, when it first allocates memory, so it is set here: every module of ours that allocates tensors
# imports this package first. On CPUs, large blocks then come in pages of 2 MB where the system has them. Every batch
# allocates its blocks anew, and in pages of 4 kB clearing them takes up to half of the batch's time.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
