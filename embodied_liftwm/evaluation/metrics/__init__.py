"""Metrics: functions of tensors, each with its definition."""
