"""Models: trials -> weights and predictions."""

import os

# torch asks once, when it first needs memory: on CPUs it then has large blocks in pages of 2 MB, where the system has
# any. Every batch has its blocks anew, and in pages of 4 kB it takes up to half the batch's time to clear them.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
