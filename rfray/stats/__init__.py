"""Arrays of labels and scores in, numbers out: metrics, intervals, paired tests, calibration, thresholds, votes."""
