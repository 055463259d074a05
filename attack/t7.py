# purge erases stored bodies?
import sys; from lib import *
kind=sys.argv[1]
if kind=='pg':
    psql('postgres','drop database if exists atk7'); psql('postgres','create database atk7'); db=PG+'atk7'
else:
    os.system('rm -f /tmp/atk/t7.db*'); db='sqlite:/tmp/atk/t7.db'
A=Server(7841,db); P=7841
ann=token({"id":"ann","role":"user","tenantId":"t"})
rows={}
for m,b,path in (('autos',{"text":"pii"},None),('decs',{"id":"15","text":"pii"},None),('dec-us',{"id":"good","text":"pii"},None),('tims',{"id":"2020-01-01T00:00:00+01:00","text":"pii"},None),('byts',{"id":"0001-01-01","text":"pii"},None),('pairs',{"a":"x\"y","b":"2020-01-01T00:00:00+01:00","text":"pii"},None)):
    r=req(P,'POST','/'+m,b,key='c-'+m,tok=ann); loc=r[1].get('location'); print(m,r[0],loc)
    print('  unch',req(P,'PATCH',loc,{'text':'pii'},key='u-'+m,tok=ann)[0]); print('  patch',req(P,'PATCH',loc,{"text":"pii2"},key='p-'+m,tok=ann)[0])
    if m=='decs': print('  patch noncanon',req(P,'PATCH','/decs/015',{"text":"pii3"},key='p2-'+m,tok=ann)[0])
    print('  delete',req(P,'DELETE',loc,key='d-'+m,tok=ann)[0])
    rows[m]=b
r=req(P,'POST','/autos/batch',{"atomic":True,"items":[{"op":"create","data":{"text":"pii"}}]},key='batch',tok=ann); print('batch',r[0])
q="select key,model,primary_key,state,coalesce(length(body),-1) from cratestack_idempotency order by key"
def show():
    if kind=='pg': print(psql('atk7',q))
    else:
        import sqlite3; print(sqlite3.connect('/tmp/atk/t7.db').execute(q).fetchall())
show()
A.stop()
for tb in ('autos','decs','dec_us','tims','byts','pairs'): print(psql('atk7',f"update {tb} set deleted_at=now()-interval '3 days' where deleted_at is not null"))
r=subprocess.run([BIN,'purge','--help'],capture_output=True,text=True); 
open('/tmp/atk/t7.sh','w').write('')
for m in ('Auto','Dec','DecU','Tim','Byt','Pair'):
    r=subprocess.run([BIN,'purge','/tmp/atk/atk.cstack','--database',db,'--model',m,'--older-than','1h','--confirm']+sys.argv[2:],capture_output=True,text=True); print(m,r.stdout,r.stderr[:400])
show()
A=Server(7841,db)
for m,b in rows.items():
    r=req(P,'POST','/'+m,b,key='c-'+m,tok=ann); print('replay',m,r)
A.stop()
