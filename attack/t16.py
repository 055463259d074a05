# cleartext: two schemas of the same name on one database; retention raised
from lib import *
psql('postgres','drop database if exists atk16'); psql('postgres','create database atk16')
ann=token({"id":"ann"})
A=Server(7921,PG+'atk16','/tmp/atk/atk.cstack','--idempotency-retention','1h')
ts=int(time.time()*1000)-2*60*1000
v7=str(uuid.UUID(int=(ts<<80)|(7<<76)|(5<<64)|(2<<62)|9))
print(req(7921,'POST','/autos',{"text":"pay"},key=v7,tok=ann)[0])
# as if that had been 3 hours ago: the record has gone by its hour
psql('atk16',"update cratestack_idempotency set expires_at=now()-interval '1 s'")
x=subprocess.run([BIN,'idempotency','purge','/tmp/atk/atk.cstack','--database',PG+'atk16'],capture_output=True,text=True); print(x.stdout+x.stderr)
A.stop(); A=Server(7921,PG+'atk16','/tmp/atk/atk.cstack')
r=req(7921,'POST','/autos',{"text":"pay"},key=v7,tok=ann); print(r[0],r[1].get('idempotent-replayed'),psql('atk16',"select count(*) from autos"))
A.stop(); psql('postgres','drop database atk16')
