import sys; from lib import *
kind=sys.argv[1]
if kind=='pg':
    psql('postgres','drop database if exists atk8'); psql('postgres','create database atk8'); db=PG+'atk8'
else:
    os.system('rm -f /tmp/atk/t8.db*'); db='sqlite:/tmp/atk/t8.db'
A=Server(7851,db); P=7851
ann=token({"id":"ann","role":"user","tenantId":"t"})
def storm(label,n,f):
    out={}; L=threading.Lock(); t0=time.time()
    def one(i):
        t=time.time()
        try: r=f(i)[0]
        except Exception as e: r=type(e).__name__
        with L: out.setdefault(r,[]).append(time.time()-t)
    ts=[threading.Thread(target=one,args=(i,)) for i in range(n)];[t.start() for t in ts];[t.join() for t in ts]
    print(label,{k:(len(v),round(max(v),2)) for k,v in out.items()},round(time.time()-t0,2))
storm('500 same',500,lambda i:req(P,'POST','/autos',{"text":"s"},key='same',tok=ann))
storm('500 different',500,lambda i:req(P,'POST','/autos',{"text":"s"},key=f'd{i}',tok=ann))
storm('200 same batch',200,lambda i:req(P,'POST','/autos/batch',{"items":[{"op":"create","data":{"text":"z"}}]},key='sameb',tok=ann))
storm('200 different batch',200,lambda i:req(P,'POST','/autos/batch',{"items":[{"op":"create","data":{"text":"z"}}]},key=f'b{i}',tok=ann))
req(P,'POST','/plains',{"id":"h"},tok=ann)
storm('200 PATCH same row diff keys',200,lambda i:req(P,'PATCH','/plains/h',{"text":str(i)},key=f'p{i}',tok=ann))
if kind=='pg':
    print(psql('atk8',"select text,count(*) from autos group by 1"))
    # lock held by operator; keyed and unkeyed behind it, with timing
    op=subprocess.Popen(['psql',PG+'atk8','-At'],stdin=subprocess.PIPE,text=True); op.stdin.write("begin; select * from plains for update;\n"); op.stdin.flush(); time.sleep(.5)
    threading.Timer(8,lambda:(op.stdin.write("rollback;\n"),op.stdin.flush())).start()
    storm('keyed behind lock',3,lambda i:req(P,'PATCH','/plains/h',{"text":"q"+str(i)},key=f'q{i}',tok=ann))
    storm('unkeyed behind lock',3,lambda i:req(P,'PATCH','/plains/h',{"text":"r"+str(i)},tok=ann))
    op.stdin.close(); op.wait()
    print('lock_timeout of sessions', psql('atk8',"select count(*) from pg_stat_activity where datname='atk8'"))
A.stop()
print(open('/tmp/atk/log-7851').read()[-500:])
