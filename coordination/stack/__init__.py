"""The embedded stack: Redis, a worker and beat on one machine, started, watched and stopped by their owner.

home          the folder: who may use it, where things lie, who owns the running stack
processes     children that are never lost: started, watched, restarted, ended with everything they hold
redis_server  which server program, its configuration, when it answers
stack         the three together: start, hold, stop
users         which commands use the stack: each keeps a file locked
joining       a command uses the stack of its home, or starts one in a process of its own
running       a stack of another process: found, stopped
launcher      the few lines that run in a child before its program
"""
