"""Data sets: whatever their format on disk, one kind of sample in memory."""
