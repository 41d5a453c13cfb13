/* Build beside, swap, stamp, and readers who open again by name: versioned.py, datafile.py, standing.py, observed.py.
 *
 * Promise 6: the assertion at a fresh pass. Promise 3 at the swap: the assertion in rename(). That nobody waits for ever
 * (a creator for readers, one of whom waits for him) is that no run ends but where it may. The mutex and the room are whole here, as election.pml and room.pml show them to be.
 */

#ifndef N
#define N 3
#endif

#define NONE    7
#define NOTHING 0
#define STALE   1
#define FRESH   2
#define SOFT    1
#define HARD    2
#define NEVER   0                       /* of a time: there is none; older than expiretime; not so */
#define PAST    1
#define RECENT  2

byte killed = NONE;
bool quiet;
byte mutex = NONE, door = NONE;         /* who creates; who waits to be the writer, or is */
bool reads[3];                          /* i is inside */

/* What stands at the path: is there a file, how old it says that it is (mtime), and whether it is in truth the last
 * creation's and was not invalidated since. */
byte mtime = NEVER;
bool current;
#define THERE   (mtime != NEVER)

/* The sidecar. stands: its stamp is for what stands at the path. */
byte createdtime = NEVER, invalidated;
bool stands;

bool f_stands[3];                       /* what i, creating, has found at the path for the stamp, still stands there */
byte f_now[3];                          /* the time then */
byte since[3];                          /* how it was invalidated since i looked under the mutex */
bool mine[3];                           /* i has swapped, and what it swapped in stands at the path */

/* standing.corrected(), then Record.state(): what is not what was stamped counts by its own mtime. */
#define STATE \
    (!THERE || invalidated == HARD -> NOTHING : \
    (invalidated == SOFT -> STALE : \
    ((stands -> createdtime : mtime) == RECENT -> FRESH : STALE)))

inline replaced()
{
    stands = false;
    f_stands[0] = false; f_stands[1] = false; f_stands[2] = false;
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

inline standing()                                       /* passage.Passage._create, before the stamp */
{
    f_stands[me] = THERE; f_now[me] = RECENT
}

inline stamp()                                          /* record.Record.created */
{
    createdtime = f_now[me]; stands = f_stands[me];
    invalidated = since[me];
    if
    :: since[me]
    :: else -> current = current || mine[me]            /* now it is created */
    fi;
#ifdef STAMP_FORGETS
    invalidated = 0;
#endif
    mine[me] = false; f_stands[me] = false; f_now[me] = NEVER
}

inline forget() { f_stands[me] = false; f_now[me] = NEVER; since[me] = 0; mine[me] = false }

proctype process(byte me)
{
    bool first, nested;
alive:
    {
        do
        :: skip;
        acquire:
            atomic {                                    /* Passage.__enter__: a look, and what comes of it */
                first = (STATE == NOTHING);
                assert(STATE != FRESH || current);      /* never is anything else called fresh */
                if
                :: STATE == FRESH -> goto through
                :: STATE == STALE -> goto through       /* another creates, or it is inside already */
                :: STATE != FRESH && mutex == NONE && !nested -> mutex = me
                :: STATE == NOTHING && mutex != NONE && !nested -> goto wait
                :: STATE == NOTHING && nested ->
#ifdef NESTED_WAITS
                    goto wait
#else
                    goto through                        /* as stale; or WouldDeadlock, if it should create */
#endif
                fi
            };
            atomic {                                    /* Passage._create_if_still */
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
            atomic { standing() };
            atomic { stamp() };
#endif
#ifndef NO_WRITE_LOCK
            door = me;                                  /* SyncReaderDogpile.acquire_write_lock */
            !reads[0] && !reads[1] && !reads[2];
#endif
            atomic { rename() };
            door = NONE;
#ifndef STAMP_FIRST
            atomic { standing() };
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
        enter:                                          /* ReadingPassage.__enter__: no writer waits or is inside */
            atomic { door == NONE -> reads[me] = true };
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

inline kill(i)                                          /* what it was building is removed by the next creator */
{
    killed = i; reads[i] = false;
    if :: mutex == i -> mutex = NONE :: else fi;
    if :: door == i -> door = NONE :: else fi
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
    age(createdtime); age(mtime); age(f_now[0]); age(f_now[1]); age(f_now[2]);
    current = false
}

#ifdef FOREIGNER_ANY_TIME
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
