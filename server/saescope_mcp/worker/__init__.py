"""`python -m saescope_mcp.worker JOB_ID`: one run in a process of its own, from its row in the table of jobs to its result.

    starting -> measuring (a training) -> waiting for its turn -> training or indexing -> done
                    |                        |                      |-> failed: its last checkpoint stays, a resume goes on from there
                    '-> done (dry run)'------'----------------------'-> cancelled, interrupted (SIGTERM): with a complete checkpoint

torch is imported once the run's turn has come. Whoever holds the run's lock is its worker; there is never a second one.
"""
