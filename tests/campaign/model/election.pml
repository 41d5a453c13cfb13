/* Election, waiting, looking again, stamping: passage.py, mutex.py, and what record.py makes of a creation.
 *
 * Promise 1: the assertions in begin() and stamp(). Promise 2: the one before the wait. Promise 5: LTL gets_through,
 * with processes killed anywhere. An invalidation is not lost on a creation that runs: the assertion at a fresh pass.
 */

#include "kernel.pml"

#ifndef CREATORS
#define CREATORS 7                      /* bit i: process i brings a creator */
#endif
#define MAY(roles)      ((roles >> me) & 1)

/* With PROMPT a momentary look (a shared lock, taken and given back at once) is one step, and so are winning the mutex
 * and taking one's turn. Liveness needs that; see "What is not shown" in README.rst. */

#define NOTHING 0
#define STALE   1
#define FRESH   2
#define SOFT    1
#define HARD    2

bool created, expired;                  /* the sidecar: is there a createdtime; is it older than expiretime */
byte invalidated;                       /* 0, SOFT, HARD */
#define STATE   (!created || invalidated == HARD -> NOTHING : (invalidated || expired -> STALE : FRESH))

byte mutex[3];                          /* a flock */
bool turn[3];                           /* an exclusive lock on a byte that no other hold has had */
byte waits_for[3] = NONE;               /* until whose hold ends; NONE: it has ended, that byte is free for ever */
byte since[3];                          /* how it was invalidated since i, who holds the mutex, looked again */
bool creating[3], wants[3];

bool counts[3];                         /* i holds the mutex, and the lock file was not deleted since it won */
bool alone[3];                          /* i has held it alone so far; not so, if the lock file was deleted */
bool outdated;                          /* what is there was invalidated, and not created anew since */

#define REFUSES(j)      (j != me && counts[j])
#define ITS_TURN(j)     (j != me && turn[j] && file[j] == file[me])

inline end_turn(i)
{
    turn[i] = false;
    if :: waits_for[0] == i -> waits_for[0] = NONE :: else fi;
    if :: waits_for[1] == i -> waits_for[1] = NONE :: else fi;
    if :: waits_for[2] == i -> waits_for[2] = NONE :: else fi
}

inline close_description() { atomic { mutex[me] = UN; file[me] = NONE } }

inline win()
{
    counts[me] = true;
    alone[me] = (mutex[0] == EX) + (mutex[1] == EX) + (mutex[2] == EX) == 1;
    if
    :: alone[me]
    :: else -> alone[0] = false; alone[1] = false; alone[2] = false
    fi
}

inline begin()
{
    assert(!counts[me] || (!REFUSES(0) && !REFUSES(1) && !REFUSES(2)));     /* at most one creator runs */
    creating[me] = true
}

inline stamp()
{
    assert(forced || !alone[me] || STATE != FRESH);             /* per expiry exactly one succeeds */
    created = true; expired = false; creating[me] = false;
#ifdef STAMP_FORGETS
    invalidated = 0
#else
    invalidated = since[me]                                     /* record.Record.created */
#endif
}

proctype process(byte me)
{
    bool first, forced;                         /* there was nothing when it came; it creates in any case */
alive:
    {
        do
        :: atomic { wants[me] = true; first = (STATE == NOTHING);       /* Passage.__enter__ */
                assert(STATE != FRESH || !outdated);
                if
                :: STATE == FRESH -> goto through
                :: STATE == STALE -> goto through       /* lost an election a moment ago */
                :: STATE != FRESH && MAY(CREATORS) -> goto elect
                :: STATE == NOTHING && !MAY(CREATORS) -> goto wait
                fi
            };

        elect:                                          /* FileMutex._try_file */
            open_lock_file();
            do
#ifdef PROMPT
            :: atomic { CAN(mutex, me, EX) && IS_AT_ITS_PATH -> mutex[me] = EX; win(); turn[me] = true }; goto elected
            :: !IS_AT_ITS_PATH -> goto elect
#else
            :: TAKE(mutex, EX); break
#endif
            :: else ->                                  /* _lock_now: is it somebody who only looks? */
#ifdef PROMPT
                goto lost
#else
                if
                :: TAKE(mutex, SH); UNLOCK(mutex);
                    if
                    :: skip
                    :: goto lost                        /* for the tenth time */
                    fi
                :: else -> goto lost
                fi
#endif
            od;
        won:
            atomic {
                if
#ifndef NO_PATH_CHECK
                :: !IS_AT_ITS_PATH -> close_description(); goto elect
#endif
                :: IS_AT_ITS_PATH -> win()
#ifdef NO_PATH_CHECK
                :: else -> win()
#endif
                fi
            };
            turn[me] = true;
            goto elected;
        lost:
            close_description();
            if
#ifndef STALE_WAITS
            :: !first -> goto through
#endif
            :: else
            fi;

        wait:                                           /* Passage._wait_for_first_creation */
            assert(first);                    /* after the first creation no caller waits for another's */
#ifdef WAITERS_TAKE_MUTEX
            open_lock_file(); TAKE(mutex, EX); goto won;
#endif
            if                                          /* FileMutex.wait_released */
            :: at_path == NONE -> goto look_again
            :: atomic { at_path != NONE -> file[me] = at_path }
            fi;
            do
            :: atomic { ITS_TURN(0) -> waits_for[me] = 0 }; break
            :: atomic { ITS_TURN(1) -> waits_for[me] = 1 }; break
            :: atomic { ITS_TURN(2) -> waits_for[me] = 2 }; break
#ifdef PROMPT
            :: !ITS_TURN(0) && !ITS_TURN(1) && !ITS_TURN(2) && CAN(mutex, me, SH) -> break
#else
            :: else ->
                if
                :: TAKE(mutex, SH); UNLOCK(mutex); break
                :: else ->
                    if
                    :: skip                             /* a pause of 0.5 ms */
                    :: TAKE(mutex, SH); break           /* for the tenth time: a foreigner, who takes no turn */
                    fi
                fi
#endif
            od;
#ifdef ONE_TURN
            !ITS_TURN(0) && !ITS_TURN(1) && !ITS_TURN(2);
            waits_for[me] = NONE;
#else
            waits_for[me] == NONE;
#endif
            close_description();
        look_again:
            if
            :: STATE == NOTHING && MAY(CREATORS) -> goto elect
            :: STATE == NOTHING && !MAY(CREATORS) -> goto wait
            :: STATE != NOTHING -> goto through
            fi;

        elected:                                        /* Passage._create_if_still */
            atomic {
                since[me] = 0;
                if
#ifndef NO_LOOK_AGAIN
                :: !forced && STATE == FRESH -> goto release
#ifndef CREATES_AGAIN
                :: !forced && STATE == STALE && first -> goto release
#endif
#endif
                :: else
                fi
            };
            atomic { begin() };
            if
            :: skip
            :: !quiet -> creating[me] = false; goto release     /* the creator raises */
            fi;
            atomic {
                stamp();
                if
                :: since[me]
                :: else -> outdated = false
                fi
            };
        release:                                        /* FileMutex.release */
            forced = false;
#ifdef TURN_FIRST
            atomic { end_turn(me) };
            atomic { mutex[me] = UN; since[me] = 0; counts[me] = false; alone[me] = false };
#else
            atomic { mutex[me] = UN; since[me] = 0; counts[me] = false; alone[me] = false };
            atomic { end_turn(me) };
#endif
            close_description();
        through:
            atomic { wants[me] = false; first = false }

#ifdef FORCE
        :: !quiet -> forced = true;                     /* refresh(force=True): Passage.create_in_any_case */
        force:
            open_lock_file();
            TAKE(mutex, EX);
            atomic {
                if
                :: IS_AT_ITS_PATH -> win()
                :: else -> close_description(); goto force
                fi
            };
            turn[me] = true;
            goto elected
#endif
        od
    } unless {
        atomic { killed == me -> killed = NONE; first = false; forced = false; since[me] = 0;
#ifndef LOCKS_SURVIVE
            mutex[me] = UN; alone[me] = false; file[me] = NONE
#endif
        }
    };
    if
    :: goto alive
    :: skip
    fi;
end_of_it:                                              /* nobody starts it again */
    atomic { killed == me -> killed = NONE }; goto end_of_it
}

/* First half of a death: the kernel gives back byte locks before flocks (fs/locks.c, locks_remove_file). */
inline kill(i)
{
    killed = i; wants[i] = false; creating[i] = false; counts[i] = false; since[i] = 0; waits_for[i] = NONE;
    end_turn(i)
}

#define RAISED(i) since[i] = (mutex[i] == EX && how > since[i] -> how : since[i])

inline invalidate(how)
{
    invalidated = (invalidated > how -> invalidated : how);
    RAISED(0); RAISED(1); RAISED(2);
    outdated = created
}

active proctype environment()
{
end:
    do
    :: atomic { !quiet && killed == NONE -> kill(0) }
    :: atomic { !quiet && killed == NONE -> kill(1) }
    :: atomic { !quiet && killed == NONE && N == 3 -> kill(2) }
    :: atomic { !quiet -> invalidate(SOFT) }
    :: atomic { !quiet -> invalidate(HARD) }
#ifndef NO_CLEANER
    :: atomic { !quiet && at_path != NONE -> at_path = NONE;    /* it deletes the lock file */
            counts[0] = false; counts[1] = false; counts[2] = false }
#endif
    :: atomic { created && !expired -> expired = true } /* time passes, also when it is quiet */
    :: atomic { !quiet && killed == NONE -> quiet = true }
    od
}

init
{
    atomic {
        run process(0);
        run process(1);
        if
        :: N == 3 -> run process(2)
        :: else
        fi
    }
}

ltl gets_through { [] ((quiet && wants[0]) -> <> !wants[0]) }
