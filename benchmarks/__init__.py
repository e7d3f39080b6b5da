"""Measurements. Each script says at its top how to run it."""
