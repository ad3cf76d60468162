"""What people run beside the pipeline: start, watch, plan, price and check a study."""
