"""What a multirun adds to runs: checked points, trials in processes of their own, shared trainings, results."""
