/* Creations in processes of their own: the mutex is handed over with the descriptor that has locked its file.
 *
 * Each caller has one description at a time. Its watchdog and its creator inherit copies of it. The kernel gives the
 * lock back when the last copy is closed, or when one of them unlocks. Any process may be killed between two steps.
 */

#ifndef N
#define N 2
#endif
#define NONE 9

byte lock = NONE;                       /* the description that has locked the file */
bool caller_has[N], watchdog_has[N], creator_has[N];    /* which processes have a copy of description d */
byte attempt = NONE;                    /* on record: d is that of caller d, N + d that of its creator */
bool stale;
bool creating[N];
bool kill_creator[N];                   /* its time is over */
byte creators;

#ifdef LOCKS_SURVIVE
#define DROP(has)       has[me] = false
#else
#define DROP(has)       has[me] = false; \
        if \
        :: lock == me && !caller_has[me] && !watchdog_has[me] && !creator_has[me] -> lock = NONE \
        :: else \
        fi
#endif
#define UNLOCK          if :: lock == me -> lock = NONE :: else fi
#define MAY_DIE         if :: true :: goto dead fi

active proctype clock()
{
end:    do
        :: !stale -> stale = true
        od
}

active [N] proctype caller()            /* election.Acquisition._create_if_still() */
{
        byte me = _pid - 1;
end:    do
        :: stale && !watchdog_has[me] && !creator_has[me] && lock == NONE ->
                atomic {
                        if
                        :: lock == NONE -> lock = me; caller_has[me] = true
                        :: else -> goto end
                        fi
                };
                MAY_DIE;
                if
                :: !stale -> goto dead          /* looks again; gives the mutex back */
                :: else
                fi;
                attempt = NONE;                 /* creation.Creation.count_death() */
                MAY_DIE;
                attempt = me;                   /* creation.Creation.begin() */
                MAY_DIE;
#ifdef UNLOCKS
                UNLOCK;
#endif
                atomic { watchdog_has[me] = true; kill_creator[me] = false };   /* child._started() */
                MAY_DIE;
dead:           atomic { DROP(caller_has) }     /* closed without unlocking, or the process has ended */
        od
}

active [N] proctype watchdog()          /* child_main._watch() */
{
        byte me = _pid - 1 - N;
end:    do
        :: watchdog_has[me] && !creator_has[me] ->
                MAY_DIE;
                creator_has[me] = true;         /* os.fork() */
                do
                :: !creator_has[me] -> break
                :: goto dead                    /* it is killed: its creator goes on alone */
                :: !kill_creator[me] -> kill_creator[me] = true
                od;
                atomic {
                        if
                        :: kill_creator[me] && (lock == me || lock == NONE) -> lock = me
                        :: else -> goto dead
                        fi
                };
                if                              /* child_main._record_failure() */
                :: attempt == me || attempt == N + me -> attempt = NONE
                :: else
                fi;
                UNLOCK;
dead:           atomic { DROP(watchdog_has) }
        od
}

active [N] proctype creator()           /* child_main._create() */
{
        byte me = _pid - 1 - 2 * N;
end:    do
        :: creator_has[me] ->
#ifndef NO_LOOK
                atomic {                        /* mutex.FileMutex._adopt() */
                        if
                        :: lock == me || lock == NONE -> lock = me
                        :: else -> goto dead
                        fi
                };
                MAY_DIE;
                if
                :: attempt != me -> goto over   /* election.Acquisition._go_on_for() */
                :: else
                fi;
#endif
                attempt = N + me;
                MAY_DIE;
                atomic { creators++; creating[me] = true };
                assert(creators == 1);                          /* at most one creator runs */
                if
                :: true
                :: kill_creator[me] -> goto dead
                :: goto dead
                fi;
                atomic {
                        assert(stale);                          /* per expiry one succeeds */
                        stale = false;                          /* creation.Creation._stamp() */
                        attempt = NONE;
                        creators--; creating[me] = false
                };
                MAY_DIE;
over:           UNLOCK;
dead:           atomic {
                        if
                        :: creating[me] -> creators--; creating[me] = false
                        :: else
                        fi;
                        DROP(creator_has)
                }
        od
}

active proctype kernel()
{
        /* the lock is never left without a process that has it */
        assert(lock == NONE || caller_has[lock] || watchdog_has[lock] || creator_has[lock])
}
