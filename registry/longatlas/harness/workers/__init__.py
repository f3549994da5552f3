"""Worker processes, where all of a method's code runs; the process that asks never touches a device.

    engine (LocalExecutor)                  starter                      worker
    Worker.send(request) --------------------------------------------->  serve: answers or dies
    Starter.start() ------------------->  forks (torch is loaded) ---->  a session of its own, limits set
    Worker.poll() <-- pid, exit code ---  waits for its children

The starter loads torch once and forks a worker in milliseconds; elsewhere than on Linux it starts each anew. When the
engine ends, however it ends, its socket closes, the starter ends all that descends from it, and ends. What a worker has
started, in whatever session, ends with it there: the starter adopts it.

Python's own forkserver with `set_forkserver_preload` was tried in its place. A start took 25 ms against 16 ms here, on
a busy machine; what it lost is what this room is for. After kill -9 of the engine a worker that hung lived on, and the
server with it, for every worker holds the pipe whose end the server waits for. What a worker had left in another
session lived on as well. And each worker first runs the caller's main module again, so `longatlas.run(...)` in a script
without a guard for `__main__` ended in an error.
"""
