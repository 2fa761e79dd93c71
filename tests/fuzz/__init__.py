"""Inputs that our programs never produce, on real parts: reports of jobs, messages on Redis, and names.

``python -m tests.fuzz --seed 1 --inputs 10000`` divides the inputs among the targets; a failure names the input,
reduced to what fails, and the same seed finds it again.

    values      odd texts and values, and the ways in which a valid one is changed
    driver      draws inputs for a check by a seed
    reports     lines that jobs send to a worker's socket; mouthpiece is the job
    messages    what is written to Redis: queues, wakeups, control commands, keys of a wrong type
    names       names on the command line, in Python and in plans
"""
