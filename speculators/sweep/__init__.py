"""What a multirun adds to runs: checked points, arms in processes of their own, shared trainings, results."""
