"""A trial and its images go in; its weights, val predictions and history come out, in the trial's folder."""
