"""`python -m saescope_mcp.worker JOB_ID`: one run in a process of its own, from its row in the
table of jobs to its result.

    starting -> measuring (a training) -> waiting for its turn -> training or indexing -> done
                    |                        |                      |-> failed
                    '-> done (dry run)'------'----------------------'-> cancelled, interrupted

A run that failed keeps its last checkpoint, from which a resume continues; one that was cancelled
or interrupted (SIGTERM) has a complete one.

torch is imported once the run's turn has come. Whoever holds the run's lock is its worker; there is
never a second one.
"""
