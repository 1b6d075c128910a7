"""A trial or a bundle goes in; a model, its predictions, its heatmaps or an exported file come out."""

import os

# On CPUs, large blocks then come in pages of 2 MB where the system has them: in pages of 4 kB, clearing the blocks of a
# batch takes up to half of its time. torch reads this once, so it is set before anything of ours allocates tensors.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
