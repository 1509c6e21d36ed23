"""Measuring masks: autoPET's metrics against a truth, surface distances, and the tables they are written as."""
