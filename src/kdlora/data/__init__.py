"""Text in: tasks from the hub, folders, files and packages; splits; batches."""
