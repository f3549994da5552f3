"""Worker processes, where all of a method's code runs; the parent never touches a device.

    engine (Executor)                       nursery                      worker
    Worker.ask(request) ---------------------------------------------->  serve: answer or die
    Nursery.birth() ------------------->  forks (torch is loaded) ---->  a session of its own, limits set
    exit codes <------------------------  waits for its children

On Linux the nursery loads torch once and forks a worker in milliseconds; elsewhere each worker is started anew. When
the engine ends, however it ends, its socket closes, the nursery ends, and the kernel kills the workers. What a worker
has started, in whatever session, ends with it there: the nursery adopts it.
"""
