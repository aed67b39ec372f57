"""From a task's data to its scores: what a task is, its prompts as a model sees them, scoring, results."""
