"""What a job is made of: each kind of job has its runner. They wait on the outside world and never see the store."""
