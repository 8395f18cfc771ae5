"""Fine-tuning's subjects: the tasks, the tables that they are read from, their splits."""
