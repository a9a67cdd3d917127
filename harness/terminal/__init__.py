"""What people see: live displays of runs and studies, tables, messages. Knows rich, and no file of a run."""
