from lib import *
psql('postgres','drop database if exists atk10'); psql('postgres','create database atk10')
db=PG+'atk10'; P=7871
ann=token({"id":"ann","role":"user","tenantId":"t"})
A=Server(P,db,'/tmp/atk/atk.cstack','--idempotency-response-limit','60')
def two(label,*a,**k):
    r=req(P,*a,tok=ann,**k); s=req(P,*a,tok=ann,**k)
    print(label,vis(r),s[0],s[1].get('idempotent-replayed'),s[1].get('repr-digest'),s[1].get('content-type'),len(s[2]),s[1].get('etag'),s[1].get('location'))
big={"text":"y"*100}
two('create',"POST",'/autos',big,key='b1')
two('create min',"POST",'/autos',big,key='b2',headers={'Prefer':'return=minimal','Content-Type':'application/json'})
two('batch',"POST",'/autos/batch',{"items":[{"op":"create","data":big}]},key='b3')
two('patch',"PATCH",'/autos/1',{"text":"z"*99},key='b4')
two('unchanged',"PATCH",'/autos/1',{"text":"z"*99},key='b5')
two('cbor',"POST",'/autos',big,key='b6',headers={'Accept':'application/cbor','Content-Type':'application/json'})
r=req(P,'POST','/autos',{"text":"other"+"y"*100},key='b1',tok=ann); print('other',r[0])
print(psql('atk10','select count(*) from autos; select key,state,status,length(body),model from cratestack_idempotency order by 1'))
A.stop()
print('--- table missing at start')
psql('atk10','drop table cratestack_idempotency')
for extra in ([],['--apply']):
    x=subprocess.run(['timeout','5',BIN,'serve','/tmp/atk/atk.cstack','--database',db,*extra,'--auth','dev','--allow-dev-auth','--addr','127.0.0.1:7872'],capture_output=True,text=True); print(extra,x.returncode,x.stdout[-300:],x.stderr[-600:])
    print(psql('atk10',"select to_regclass('cratestack_idempotency')"))
x=subprocess.run([BIN,'migrate','--help'],capture_output=True,text=True); print(x.stdout[:900])
x=subprocess.run([BIN,'migrate','status','/tmp/atk/atk.cstack','--database',db],capture_output=True,text=True); print(x.stdout[:500],x.stderr[:500])
