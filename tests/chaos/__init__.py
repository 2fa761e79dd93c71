"""Random faults on real servers and processes, and a checker that relies on no code of the product.

``python -m tests.chaos --seed 7 --minutes 3`` starts a whole stack (Redis, PostgreSQL or SQLite, workers behind proxies
of their own, beat), keeps it busy with random plans, and injects the faults of a schedule drawn from the seed. Then it
heals everything, waits for the plans to end, and checks.

    jobs/       what the plans run; every job appends its actions to a file that the product does not use
    plans       random plans from a seed
    stack       the servers and processes, and restarts of those that were killed
    proxy       the network between a worker and its servers, in a process of its own
    faults/     one small class a kind of fault
    schedule    which fault when, from the seed
    checker/    reads tables, event log and the jobs' own file; its SQL and its rules are its own
    report      numbers of a run as JSON, and of many runs as a table
    run         one run from start to verdict
"""
