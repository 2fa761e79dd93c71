"""The embedded stack: Redis, a worker and beat on one machine, started, watched and stopped by their owner.

home          the folder: who may use it, where things lie, who owns the running stack
processes     children that are never lost: started, watched, restarted, ended with everything they hold
redis_server  which server program, its configuration, when it answers
stack         the three together: start, hold, stop
running       a stack of another process: found, started apart from the terminal, stopped
launcher      the few lines that run in a child before its program
"""
