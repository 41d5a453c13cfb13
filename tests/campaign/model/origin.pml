/* Hosts that agree through an origin: a head that is replaced only by a host that knows its tag.
 *
 * A host sends a write, and waits for the answer or gives up waiting: then the write may be on its way still, or made
 * and its answer lost. So it reads the head, and sends the same again until it is decided. The ttl of an attempt is no
 * time here: another host may take over at any moment, as if the first one had been paused for longer than that.
 */

#ifndef N
#define N 2
#endif
#ifndef ATTEMPTS
#define ATTEMPTS 2                      /* of each host */
#endif
#define MOST 12                         /* nonces */

#define BEGIN   1
#define BEAT    2
#define PUBLISH 3

byte tag, generation, attempt;          /* the head; attempt: its nonce, 0 for none */
bool stale = true;
byte invalidations;
byte fresh = 1;                         /* a tag that no head had before */
byte nonces;
bool published[MOST];                   /* the nonces of publications that the head remembers */
byte content[MOST];                     /* of a generation: the nonce of its publication */

/* one write on its way for each host and try: condition, kind, nonce, attempt that it goes on from, invalidations seen */
chan sent[N] = [2] of { byte, byte, byte, byte, byte };
byte answer[N], answered[N];            /* the tag of the write that was made, and its nonce; 0: no answer yet */
bool refused[N];

/* What a failover may take back: the head before the last write. */
byte old_tag, old_generation, old_attempt;
bool old_stale;
bool has_failed_over;

inline apply(kind, nonce, its, seen)
{
        old_tag = tag; old_generation = generation; old_attempt = attempt; old_stale = stale;
        if
        :: kind == BEGIN -> attempt = nonce
        :: kind == BEAT -> assert(attempt == its)
        :: kind == PUBLISH ->
                assert(attempt == its);                 /* a host that was taken over from publishes nothing */
                assert(generation + 1 < MOST);
                generation++;
                assert(has_failed_over || content[generation] == 0);    /* no number comes twice */
                content[generation] = nonce;
                published[nonce] = true;
                attempt = 0;
                stale = (seen != invalidations)
        fi;
#ifdef COUNTS_TAGS
        tag++
#else
        tag = fresh; fresh++
#endif
}

active proctype origin()
{
        byte condition, kind, nonce, its, seen, host;
end:    do
        :: atomic {
                if
                :: sent[0] ? condition, kind, nonce, its, seen -> host = 0
                :: sent[1] ? condition, kind, nonce, its, seen -> host = 1
#if N > 2
                :: sent[2] ? condition, kind, nonce, its, seen -> host = 2
#endif
                fi;
                if
#ifdef UNCONDITIONAL
                :: condition == tag || kind == PUBLISH ->
#else
                :: condition == tag ->
#endif
                        apply(kind, nonce, its, seen);
                        answer[host] = tag; answered[host] = nonce
                :: else -> refused[host] = true
                fi;
                kind = 0; nonce = 0; its = 0; seen = 0; condition = 0; host = 0
           }
        od
}

#ifdef FAILOVER
active proctype failover()              /* Redis: the last write that was acknowledged is lost, once */
{
end:    atomic {
                old_tag != tag ->
                tag = old_tag; generation = old_generation; attempt = old_attempt; stale = old_stale;
                has_failed_over = true
        }
}
#endif

active proctype invalidator()           /* host_election.HostElection._change_head(), by another host */
{
end:    atomic {
                tag != 0 ->
                stale = true; invalidations++;
#ifdef COUNTS_TAGS
                tag++
#else
                tag = fresh; fresh++
#endif
        }
}

/* host_scope.HostScope.write(): is_won says how it was decided */
#define WRITE(kind, what, its, is_ours) \
        do \
        :: atomic { answer[me] = 0; answered[me] = 0; refused[me] = false }; \
           nfull(sent[me]) -> sent[me] ! mine, kind, what, its, seen; \
           if \
           :: answer[me] != 0 && answered[me] == what -> mine = answer[me]; is_won = true; break \
           :: refused[me] \
           :: true                              /* no answer in time */ \
           fi; \
           DECIDE(is_ours) \
        od

#ifdef ASSUMES_WON
#define DECIDE(is_ours) if :: refused[me] && tag != mine -> is_won = false; break \
                           :: else -> is_won = true; break fi
#else
#define DECIDE(is_ours) atomic { if \
           :: is_ours -> mine = tag; is_won = true; break \
           :: !(is_ours) && tag != mine -> is_won = false; break \
           :: else                              /* undecided: the same again */ \
           fi }
#endif

active [N] proctype host()
{
        byte me = _pid - 1, mine, nonce, its, seen, tries;
        bool is_won;
#ifdef FAILOVER
        me--;
#endif
        me--;
end:    do
        :: tries < ATTEMPTS && stale ->
                tries++;
                atomic {                        /* HostElection._created_or_not() */
                        mine = tag; seen = invalidations;
                        nonces++; nonce = nonces
                };
                WRITE(BEGIN, nonce, 0, attempt == nonce);
                if
                :: !is_won -> goto over
                :: else -> its = nonce
                fi;
#ifdef BEATS
                WRITE(BEAT, its, its, false);                   /* heartbeat.Heartbeat._beat() */
                if
                :: !is_won -> atomic { if :: attempt == its -> mine = tag :: else -> goto over fi }
                :: else
                fi;
#endif
                atomic { nonces++; nonce = nonces };
again:          WRITE(PUBLISH, nonce, its, published[nonce]);
                if
                :: is_won ->                    /* HostElection._put_in_place() */
                        assert(published[nonce]);               /* nothing is seen that was not published */
                :: else ->                      /* Heartbeat.merged() */
                        atomic {
                                if
                                :: attempt == its -> mine = tag; goto again
                                :: else                         /* fenced */
                                fi
                        }
                fi;
over:           its = 0; nonce = 0; seen = 0; mine = 0; is_won = false
        :: else -> break
        od
}
