# two servers, one db, storms + backend kills
import sys,random; from lib import *
kind=sys.argv[1]
if kind=='pg':
    db=PG+'atk3'; psql('postgres','drop database if exists atk3'); psql('postgres','create database atk3')
else:
    os.system('rm -f /tmp/atk/t3.db*'); db='sqlite:/tmp/atk/t3.db'
ports=[7811,7812]
S=[Server(7811,db),Server(7812,db,apply=False)]
ann=token({"id":"ann","role":"user","tenantId":"t"})
stop=time.time()+float(sys.argv[2]); stats={}; lock=threading.Lock(); effects={}
def killer():
    while time.time()<stop:
        psql('atk3',"select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name='cratestack' and datname='atk3' and random()<.2")
        time.sleep(.15)
def servkiller():
    while time.time()<stop:
        time.sleep(1.5); i=random.randrange(2)
        S[i].kill()
        while True:
            try: S[i]=Server(ports[i],db,apply=False); break
            except Exception: pass
def worker(w):
    rnd=random.Random(w)
    while time.time()<stop:
        n=rnd.randrange(100000); k=f'key-{n%int(sys.argv[3])}'
        n=n%int(sys.argv[3])
        what=n%4
        if what==0: a=('POST','/autos',{"text":f"t{n}","n":n})
        elif what==1: a=('POST','/auto-vs',{"text":f"t{n}"})
        elif what==2: a=('POST','/autos/batch',{"atomic":True,"items":[{"op":"create","data":{"text":f"b{n}"}},{"op":"create","data":{"text":f"b{n}"}}]})
        else: a=('POST','/papers',{"j":n,"f":1.5})
        try: r=req(rnd.choice(ports),*a,key=k,tok=ann,timeout=20)
        except Exception as e: 
            with lock: stats[type(e).__name__]=stats.get(type(e).__name__,0)+1
            continue
        with lock:
            stats[(what,r[0])]=stats.get((what,r[0]),0)+1
            if r[0]<300:
                e=effects.setdefault(k,vis(r))
                if e!=vis(r): print('!!! DIFFERENT ANSWERS',k,e,vis(r))
            elif r[0] not in(409,503): print(r[0],r[2][:300])
ts=[threading.Thread(target=worker,args=(i,)) for i in range(24)]
if kind=='pg' and 'k' in sys.argv[4]: ts.append(threading.Thread(target=killer))
if 's' in sys.argv[4]: ts.append(threading.Thread(target=servkiller))
[t.start() for t in ts];[t.join() for t in ts]
print(stats)
q={"autos":"select text,count(*) from autos group by text having count(*)<>case when text like 'b%' then 2 else 1 end","autovs":"select text,count(*) from auto_vs group by text having count(*)<>1","docs":"select j,count(*) from papers group by j having count(*)<>1",
 "keys":"select count(*) from cratestack_idempotency","rows":"select (select count(*) from autos where text like 't%')+(select count(*) from autos where text like 'b%')/2+(select count(*) from auto_vs)+(select count(*) from papers)"}
for k,v in q.items():
    if kind=='pg': print(k,psql('atk3',v))
    else:
        import sqlite3
        print(k,sqlite3.connect('/tmp/atk/t3.db').execute(v).fetchall())
for s in S: s.stop()
if kind=='pg': psql('postgres','drop database atk3')
