"""The experiments: functions that return complete configurations, and run them."""
