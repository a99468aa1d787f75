"""The multi-modal multi-task (M3T) model: encoders -> prompts -> fusion backbone with adapters and experts -> heads."""
