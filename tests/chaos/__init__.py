"""Faults without end on real servers and processes, and a checker that believes nobody.

``python -m tests.chaos --seed 7 --minutes 3`` starts a whole stack (Redis, PostgreSQL or SQLite, workers behind proxies
of their own, beat), keeps it busy with random plans, and does to it what a schedule drawn from the seed says. Then it
heals everything, waits for the plans to end, and checks.

    jobs/       what the plans run; every job appends what it does to a file that the product knows nothing of
    plans       random plans from a seed
    stack       the servers and processes, and who restarts what was killed
    proxy       the network between a worker and its servers, in a process of its own
    faults/     one small class a kind of fault
    schedule    which fault when, from the seed
    checker/    reads tables, event log and the jobs' own file; its SQL and its rules are its own
    report      figures of a run as JSON, and of many runs as a table
    run         one run from start to verdict
"""
