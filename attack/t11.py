# grants, deadlocks, wait behaviour, CLI oddities
from lib import *
psql('postgres','drop database if exists atk11'); psql('postgres','create database atk11')
db=PG+'atk11'; P=7881
ann=token({"id":"ann"})
A=Server(P,db,'/tmp/atk/aud.cstack'); A.stop()
x=subprocess.run([BIN,'migrate','grants','/tmp/atk/aud.cstack','--help'],capture_output=True,text=True); print(x.stdout[:1200])
x=subprocess.run([BIN,'migrate','grants','/tmp/atk/aud.cstack','--role','atk_svc'],capture_output=True,text=True); print(x.stderr[:300]); open('g.sql','w').write(x.stdout)
y=subprocess.run(['psql',PG+'atk11','-q','-v','ON_ERROR_STOP=1','-f','g.sql'],capture_output=True,text=True); print(y.stdout,y.stderr)
print([l for l in x.stdout.splitlines() if 'idempotency' in l])
sdb='postgres://atk_svc@127.0.0.1:55432/atk11'
A=Server(P,sdb,'/tmp/atk/aud.cstack',apply=False)
def two(l,*a,**k):
    r=req(P,*a,tok=ann,**k); s=req(P,*a,tok=ann,**k); print(l,r[0],s[0],s[1].get('idempotent-replayed'), '' if vis(r)==vis(s) else ('DIFF',vis(r),vis(s)))
two('create','POST','/accs',{"text":"a"},key='1')
two('patch','PATCH','/accs/1',{"text":"b"},key='2',headers={'If-Match':'"1"'})
two('delete','DELETE','/accs/1',key='3',headers={'If-Match':'"2"'})
two('batch','POST','/accs/batch',{"items":[{"op":"create","data":{"text":"b"}}]},key='4')
two('unch','PATCH','/accs/2',{"text":"b"},key='5',headers={'If-Match':'"1"'})
A.stop()
psql('atk11',"update cratestack_idempotency set expires_at=now()-interval '1 day'")
x=subprocess.run([BIN,'idempotency','purge','/tmp/atk/aud.cstack','--database',sdb],capture_output=True,text=True); print(x.stdout,x.stderr)
# CLI with weird
psql('atk11',r"""insert into cratestack_idempotency(scope,key,fingerprint,state,status,headers,body,op,request_id,created_at,expires_at) values ('\x00',E'k\x1b[31m\n\u202e','\x00',1,200,E'a: b\x1b[0m\nc: d',convert_to(E'\x1b]0;pwn\x07\nline2\u202e','UTF8'),E'POST /\x1b[2J','r',now(),now()+interval '1 day'),('\x01','bin','\x00',1,200,'','\xff00','POST /x','r',now(),now()+interval '1 day'),('\x02','odd','\x00',7,99999/4,'','','POST /x','r',now(),now()+interval '1 day'),('\x03','inf','\x00',1,200,'','','POST /x','r','infinity','infinity')""")
print(psql('atk11','select count(*) from cratestack_idempotency'))
for a in (['list'],['list','--format','json'],['show','bin'],['show','bin','--format','json'],['show','k\x1b[31m\n\u202e']):
    x=subprocess.run([BIN,'idempotency',a[0],'/tmp/atk/aud.cstack',*a[1:],'--database',db],capture_output=True,text=True); print(a,x.returncode,repr(x.stdout[:900]),x.stderr[:300])
psql('atk11','drop owned by atk_svc'); print(psql('postgres','drop database atk11'), psql('postgres','drop role atk_svc'))
