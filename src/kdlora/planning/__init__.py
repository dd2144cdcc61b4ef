"""What a plan will cost, where it stands, and what would stop it: `kdlora plan` and `status`."""
