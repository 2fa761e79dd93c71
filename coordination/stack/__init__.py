"""The embedded stack: Redis, a worker and beat on one machine, started, monitored and stopped by one process.

home          the home directory: permissions, paths, the owner of the running stack
processes     child processes: start, monitor, restart, end with their descendants
redis_server  the server program, its configuration, its readiness
stack         the three services together: start, run, stop
users         the commands that use the stack: each keeps a file locked
joining       use the stack of a home directory, or start one in a separate process
running       find and stop the stack of another process
launcher      a program that runs in a child before the service's program
"""
