from lib import *
psql('postgres','drop database if exists atk15'); psql('postgres','create database atk15')
A=Server(7911,PG+'atk15','/tmp/atk/atk.cstack','--idempotency-wait','300ms'); ann=token({"id":"ann"}); bob=token({"id":"bob"})
req(7911,'POST','/plains',{"id":"h"},tok=ann)
op=subprocess.Popen(['psql',PG+'atk15','-At'],stdin=subprocess.PIPE,text=True,stdout=subprocess.DEVNULL); op.stdin.write("begin; select * from plains for update;\n"); op.stdin.flush(); time.sleep(.5)
r=req(7911,'PATCH','/plains/h',{"text":"1"},key='k',tok=ann); print('keyed behind another lock',r)
op.stdin.write('rollback;\n'); op.stdin.flush(); op.stdin.close(); op.wait()
# other subject independence, tenant, anonymous
for t in (ann,bob,token({"id":"ann","tenantId":"x"}),token({"id":"ann","tenantId":""}),None): print(req(7911,'POST','/autos',{"text":"t"},key='same',tok=t)[:2][0], end=' ')
print(psql('atk15',"select count(*) from autos"))
# erased bodies, content-type
psql('atk15',"update cratestack_idempotency set state=2, body=null where key='same'")
r=req(7911,'POST','/autos',{"text":"t"},key='same',tok=ann); print(r)
# wrong credentials with a used key
print(req(7911,'POST','/autos',{"text":"t"},key='same',tok='garbage')[0])
A.stop(); psql('postgres','drop database atk15')
