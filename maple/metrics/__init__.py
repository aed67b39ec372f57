"""What a task is scored by: each metric is a torchmetrics Metric, the mean of a score per example."""
