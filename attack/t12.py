# deadlocks keyed PATCH vs batch, pipelining, disconnects, deadline
from lib import *
import random
psql('postgres','drop database if exists atk12'); psql('postgres','create database atk12')
db=PG+'atk12'; P=7891
ann=token({"id":"ann","role":"user","tenantId":"t"})
A=Server(P,db); B=Server(7892,db,apply=False)
for i in range(6): req(P,'POST','/auto-vs',{"text":"x"},tok=ann)
# keyed PATCH + batch in opposite orders, amounts count; check each ack has effect
acks={}; L=threading.Lock(); stop=time.time()+12; st={}
def w(n):
    r=random.Random(n); c=0
    while time.time()<stop:
        c+=1; k=f'{n}-{c}'
        if r.random()<.5:
            a=('PATCH',f'/auto-vs/{r.randint(1,6)}',{"text":k}); h={'If-Match':'*'}
        else:
            ids=r.sample(range(1,7),3); a=('POST','/auto-vs/batch',{"atomic":True,"items":[{"op":"update","id":str(i),"ifMatch":"*","data":{"text":k}} for i in ids]}); h={}
        outs=[]
        def go(port):
            try: x=req(port,*a,key=k,tok=ann,headers={**h,'Content-Type':'application/json' if a[0]=='POST' else 'application/merge-patch+json'}); outs.append(x)
            except Exception as e: outs.append((type(e).__name__,{},b''))
        ts=[threading.Thread(target=go,args=(p,)) for p in (P,7892,7892)];[t.start() for t in ts];[t.join() for t in ts]
        with L:
            key=(a[0],tuple(sorted(str(o[0]) for o in outs))); st[key]=st.get(key,0)+1
            ok=[vis(o) for o in outs if o[0]==200]
            if len({str(o) for o in ok})>1: print('DIFF',k,ok)
            if not all(o[0]==200 for o in outs): print(k,[(o[0],o[2][:200]) for o in outs if o[0]!=200])
            rep=[o[1].get('idempotent-replayed') for o in outs if o[0]==200]
            if rep.count(None)>1: print('TWO FIRST',k)
            if ok: acks[k]=len(ids) if a[0]=='POST' else 1
ts=[threading.Thread(target=w,args=(i,)) for i in range(6)];[t.start() for t in ts];[t.join() for t in ts]
print(st, 'sum acks',sum(acks.values()), 'sum versions-6', psql('atk12','select sum(version)-6 from auto_vs'))
# pipelining
s=socket.create_connection(('127.0.0.1',P)); b=b'{"text":"pipe"}'
one=b'POST /api/autos HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer '+ann.encode()+b'\r\nContent-Type: application/json\r\nIdempotency-Key: pipe\r\nContent-Length: %d\r\n\r\n'%len(b)+b
s.sendall(one*20); time.sleep(1); d=s.recv(1<<20); print('pipe',d.count(b'201 Created'),d.lower().count(b'idempotent-replayed')); s.close()
# disconnects at random
for i in range(300):
    s=socket.create_connection(('127.0.0.1',random.choice((P,7892)))); s.sendall(one.replace(b'Key: pipe',b'Key: disc-%d'%(i%50)).replace(b'"pipe"',b'"disc"')); time.sleep(random.random()*.004); s.close()
time.sleep(1); print('disc',psql('atk12',"select count(*), (select count(*) from cratestack_idempotency where key like 'disc-%') from autos where text='disc'"), psql('atk12',"select count(*) from autos where text='pipe'"))
A.stop();B.stop()
# deadline: request timeout 2s while waiting for a lock, then retry
A=Server(P,db,'/tmp/atk/atk.cstack','--request-timeout','2s')
req(P,'POST','/plains',{"id":"h"},tok=ann)
op=subprocess.Popen(['psql',PG+'atk12','-At'],stdin=subprocess.PIPE,text=True,stdout=subprocess.DEVNULL); op.stdin.write("begin; select * from plains for update; insert into items(gate_id,code) select 1,'X' where false; lock table autos in share mode;\n"); op.stdin.flush(); time.sleep(.5)
for a in (('PATCH','/plains/h',{"text":"dl"}),('POST','/autos',{"text":"dl"}),('POST','/autos/batch',{"items":[{"op":"create","data":{"text":"dlb"}}]})):
    t=time.time(); r=req(P,*a,key='dl'+a[0]+a[1],tok=ann); print(a[0],r[0],r[2][:260],round(time.time()-t,1))
op.stdin.write('rollback;\n'); op.stdin.flush(); time.sleep(1)
for a in (('PATCH','/plains/h',{"text":"dl"}),('POST','/autos',{"text":"dl"}),('POST','/autos/batch',{"items":[{"op":"create","data":{"text":"dlb"}}]})):
    r=req(P,*a,key='dl'+a[0]+a[1],tok=ann); print(a[0],r[0],r[1].get('idempotent-replayed'))
print(psql('atk12',"select text,count(*) from autos where text like 'dl%' group by 1"))
op.stdin.close(); op.wait(); A.stop()
psql('postgres','drop database atk12')
