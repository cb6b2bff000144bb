"""What is kept of requests and answers for learning: by which rules, how much of each, for how long, in how many bytes."""
