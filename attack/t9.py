import sys; from lib import *
kind=sys.argv[1]
if kind=='pg':
    psql('postgres','drop database if exists atk9'); psql('postgres','create database atk9'); db=PG+'atk9'
else:
    os.system('rm -f /tmp/atk/t9.db*'); db='sqlite:/tmp/atk/t9.db'
A=Server(7861,db,'/tmp/atk/aud.cstack'); P=7861
ann=token({"id":"ann"}); eve=token({"id":"$told$'; drop table accs; --"})
def q(s):
    if kind=='pg': return psql('atk9',s)
    import sqlite3; return sqlite3.connect('/tmp/atk/t9.db').execute(s).fetchall()
keys=['"$told$"','"$told"','"$told_$ $told$"','"a\\\\b\\"c"','"  "','"\\\\n\\\\"','"{\\"x\\":1}"','"%s"','"$1"',"'';--",'~cratestack-key~']
for k in keys[:1]:
    for t in (ann,eve):
        r=req(P,'POST','/accs',{"text":"a"},key=k,tok=t); r2=req(P,'POST','/accs',{"text":"a"},key=k,tok=t)
        kb='"B'+(k[1:] if k[0]=='"' else k+'"')
        b=req(P,'POST','/accs/batch',{"items":[{"op":"create","data":{"text":"b"}}]},key=kb,tok=t); b2=req(P,'POST','/accs/batch',{"items":[{"op":"create","data":{"text":"b"}}]},key=kb,tok=t)
        if (r[0],r2[0],b[0],b2[0])!=(201,201,200,200) or vis(r)!=vis(r2) or vis(b)!=vis(b2): print(k,r,r2,b,b2)
print(q("select count(*) from accs"),q("select entry from cratestack_audit order by seq desc limit 3"))
print(q("select entry from cratestack_outbox limit 2") if kind=='pg' else '')
# cascade purge
r=req(P,'POST','/pars',{"name":"p"},key='par',tok=ann); pid=json.loads(r[2])['id']
r=req(P,'POST','/kids',{"parId":pid,"name":"PII-NAME"},key='kid',tok=ann); print(r)
print(req(P,'DELETE',f'/pars/{pid}',key='dp',tok=ann)[0]); A.stop(); print(q("update pars set deleted_at=now()-interval '3 days' where deleted_at is not null"))
x=subprocess.run([BIN,'purge','/tmp/atk/aud.cstack','--database',db,'--model','Par','--older-than','1h','--confirm']+sys.argv[2:],capture_output=True,text=True); print(x.stdout,x.stderr)
print(q("select count(*) from kids"),q("select key,model,state,body from cratestack_idempotency where key in ('par','kid')"))
