/* Build beside, swap, stamp, and readers that open the file again by name: resource.py, datafile.py, fingerprint.py,
 * reconciled.py.
 *
 * Promise 6: the assertion at a fresh pass. Promise 3 at the swap: the assertion in rename(). No deadlock between a
 * creator that waits for readers and a reader that waits for the creator: there is no invalid end state. The mutex and
 * the read/write lock are one step each; election.pml and readwrite.pml check their insides.
 */

#ifndef N
#define N 3
#endif

#define NONE    7
#define MISSING 0
#define STALE   1
#define FRESH   2
#define SOFT    1
#define HARD    2
#define NEVER   0                       /* of a time: none; older than expiretime; younger */
#define PAST    1
#define RECENT  2

byte killed = NONE;
bool quiet;
byte mutex = NONE, writer = NONE;       /* the process that creates; that waits to be the writer, or is */
bool reads[3];                          /* i is inside as a reader */

/* The file at the path: its mtime, and whether it is in truth the last creation's and was not invalidated since. */
byte mtime = NEVER;
bool current;
#define THERE   (mtime != NEVER)

/* The sidecar. matches: its stamp describes the file at the path. */
byte createdtime = NEVER, invalidated;
bool matches;

bool found_matches[3];                  /* the file whose fingerprint i took for the stamp is still at the path */
byte found_at[3];                       /* the time at which i took it */
byte since[3];                          /* the invalidation since i looked under the mutex */
bool mine[3];                           /* i has swapped, and its file is still at the path */

/* fingerprint.reconcile(), then Record.state(): a file that the stamp does not describe counts by its mtime. */
#define STATE \
    (!THERE || invalidated == HARD -> MISSING : \
    (invalidated == SOFT -> STALE : \
    ((matches -> createdtime : mtime) == RECENT -> FRESH : STALE)))

inline replaced()
{
    matches = false;
    found_matches[0] = false; found_matches[1] = false; found_matches[2] = false;
    mine[0] = false; mine[1] = false; mine[2] = false
}

inline rename()                                         /* Datafile._put_in_place */
{
    assert(!reads[0] && !reads[1] && !reads[2]);        /* no reader is inside while it is swapped */
    replaced();
    mine[me] = true; current = !since[me];
    if
    :: mtime = RECENT
    :: mtime = PAST                                     /* the creator has copied a file with its times */
    fi
}

inline fingerprint()                                    /* Creation._stamp, before the stamp */
{
    found_matches[me] = THERE; found_at[me] = RECENT
}

inline stamp()                                          /* record.Record.created */
{
    createdtime = found_at[me]; matches = found_matches[me];
    invalidated = since[me];
    if
    :: since[me]
    :: else -> current = current || mine[me]            /* now it is created */
    fi;
#ifdef STAMP_FORGETS
    invalidated = 0;
#endif
    mine[me] = false; found_matches[me] = false; found_at[me] = NEVER
}

inline forget() { found_matches[me] = false; found_at[me] = NEVER; since[me] = 0; mine[me] = false }

proctype process(byte me)
{
    bool first, nested;
alive:
    {
        do
        :: skip;
        acquire:
            atomic {                                    /* Acquisition.__enter__ */
                first = (STATE == MISSING);
                assert(STATE != FRESH || current);      /* no other version is called fresh */
                if
                :: STATE == FRESH -> goto through
                :: STATE == STALE -> goto through       /* another creates, or it is inside already */
                :: STATE != FRESH && mutex == NONE && !nested -> mutex = me
                :: STATE == MISSING && mutex != NONE && !nested -> goto wait
                :: STATE == MISSING && nested ->
#ifdef NESTED_WAITS
                    goto wait
#else
                    goto through                        /* as stale; or WouldDeadlock, if it should create */
#endif
                fi
            };
            atomic {                                    /* Acquisition._create_if_still */
                since[me] = 0;
                if
                :: STATE == FRESH || (STATE == STALE && first) -> goto release
                :: else
                fi;
                first = false
            };
            if
            :: skip
            :: !quiet -> goto release                   /* the creator raises, or validate refuses */
            fi;
#ifdef STAMP_FIRST
            atomic { fingerprint() };
            atomic { stamp() };
#endif
#ifndef NO_WRITE_LOCK
            writer = me;                                  /* SyncReaderDogpile.acquire_write_lock */
            !reads[0] && !reads[1] && !reads[2];
#endif
            atomic { rename() };
            writer = NONE;
#ifndef STAMP_FIRST
            atomic { fingerprint() };
            atomic { stamp() };
#endif
        release:
            mutex = NONE;
            goto through;
        wait:
            mutex == NONE;
            goto acquire;
        through:
            atomic {
                first = false; forget();
                if
                :: !nested ->
                    if
                    :: goto outside                     /* Datafile without readers: it has opened the file */
                    :: goto enter
                    fi
                :: nested -> nested = false
                fi
            };
            if
            :: reads[me] -> goto inside
            :: else -> goto outside
            fi;
        enter:                                          /* ReaderAcquisition.__enter__: no writer waits or is inside */
            atomic { writer == NONE -> reads[me] = true };
        inside:
            if
            :: reads[me] = false
#ifndef NO_NESTING
            :: nested = true; goto acquire              /* its thread enters again */
#endif
            fi;
        outside:
            skip
        od
    } unless {
        atomic { killed == me -> killed = NONE; first = false; nested = false; forget() }
    };
    if
    :: goto alive
    :: skip
    fi;
end_of_it:
    atomic { killed == me -> killed = NONE }; goto end_of_it
}

inline kill(i)                                          /* the next creator removes its unfinished file */
{
    killed = i; reads[i] = false;
    if :: mutex == i -> mutex = NONE :: else fi;
    if :: writer == i -> writer = NONE :: else fi
}

#define RAISED(i) since[i] = (mutex == i && how > since[i] -> how : since[i])

inline invalidate(how)
{
    invalidated = (invalidated > how -> invalidated : how); current = false;
    RAISED(0); RAISED(1); RAISED(2)
}

inline age(time) { time = (time == RECENT -> PAST : time) }

inline expire()
{
    age(createdtime); age(mtime); age(found_at[0]); age(found_at[1]); age(found_at[2]);
    current = false
}

#ifdef OTHER_PROGRAM_ANY_TIME
#define NOT_NOW false
#else
#define NOT_NOW (mine[0] || mine[1] || mine[2])         /* between the swap and its stamp */
#endif

active proctype environment()
{
end:
    do
    :: atomic { !quiet && killed == NONE -> kill(0) }
    :: atomic { !quiet && killed == NONE -> kill(1) }
    :: atomic { !quiet && killed == NONE && N == 3 -> kill(2) }
    :: atomic { !quiet -> invalidate(SOFT) }
    :: atomic { !quiet -> invalidate(HARD) }
    :: atomic { createdtime == RECENT || mtime == RECENT -> expire() }
    :: atomic { !quiet && !NOT_NOW -> replaced(); mtime = RECENT; current = (invalidated == 0) }
    :: atomic { !quiet && !NOT_NOW -> replaced(); mtime = PAST; current = false }
    :: atomic { !quiet && !NOT_NOW && THERE -> replaced(); mtime = NEVER; current = false }
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
