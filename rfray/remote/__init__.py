"""A command here -> the same command as a job on a Ray cluster; the address of a run -> its files here."""
